"""How many clips were listed, found, kept and dropped, and why: for people as a table, for programs as JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.table import Table

_EXAMPLES = 3


@dataclass
class Report:
    """Counts of one preparation. dropped: cause -> how many, and the first of them with their file and what was seen."""

    listed: int
    found: int
    kept: int = 0
    kept_hours: float = 0.0
    kept_of_split: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def keep(self, split: str | None, duration_s: float) -> None:
        """Count a clip that is kept."""
        self.kept += 1
        self.kept_hours += duration_s / 3600
        self.kept_of_split[split or 'no split'] = self.kept_of_split.get(split or 'no split', 0) + 1

    def drop(self, cause: str, clip_id: str, file: str, detail: str) -> None:
        """Count a clip that is dropped."""
        entry = self.dropped.setdefault(cause, {'count': 0, 'examples': []})
        entry['count'] += 1
        if len(entry['examples']) < _EXAMPLES:
            entry['examples'].append({'clip_id': clip_id, 'file': file, 'detail': detail})

    def as_dict(self) -> dict[str, Any]:
        """All of it, most frequent cause first."""
        return asdict(self) | {'dropped': dict(self._causes()), 'missing': self.listed - self.found}

    def _causes(self) -> Iterable[tuple[str, dict[str, Any]]]:
        return sorted(self.dropped.items(), key=lambda item: (-item[1]['count'], item[0]))

    def table(self) -> Table:
        """The counts with their share, causes with one example."""
        table = Table('clips', 'number', 'share', 'for example', title=None)
        table.add_row('listed', f'{self.listed:,}', '', '')
        table.add_row('missing', *_share(self.listed - self.found, self.listed), '')
        table.add_row('found', *_share(self.found, self.listed), '', end_section=True)
        for cause, entry in self._causes():
            example = entry['examples'][0]
            seen = f'{example["file"]} ({example["detail"]})' if example['detail'] else example['file']
            table.add_row(f'dropped: {cause}', *_share(entry['count'], self.found), seen)
        splits = ', '.join(f'{count:,} {split}' for split, count in sorted(self.kept_of_split.items()))
        kept = f'{splits}; {self.kept_hours:.1f} hours' if self.kept else ''
        table.add_row('kept', *_share(self.kept, self.found), kept)
        return table


def _share(count: int, whole: int) -> tuple[str, str]:
    return f'{count:,}', f'{100 * count / whole:.1f} %' if whole else ''
