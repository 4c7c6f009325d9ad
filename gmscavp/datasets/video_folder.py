"""Any folder of videos, with a manifest or without."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gmscavp.datasets.base import ClipDataset, list_files, say_found
from gmscavp.datasets.manifest import Manifest, splits_of
from gmscavp.errors import UserError
from gmscavp.registry import DATASETS

VIDEO_ENDINGS = (
    '.mp4',
    '.m4v',
    '.mkv',
    '.webm',
    '.mov',
    '.avi',
    '.mpg',
    '.mpeg',
    '.ts',
    '.flv',
    '.wmv',
    '.3gp',
    '.ogv',
)


@DATASETS.register_module()
class VideoFolder(ClipDataset):
    """Clips of any folder of videos.

    manifest: a .csv or .parquet file; None looks for `manifest.csv|parquet` in the folder, then for a table with the
    folder's own name beside it (`clips/` and `clips.csv`), and else takes every video file. split: which rows, when the
    manifest has a column `split`; without one, `test_share` of the files (by group, where there is a column `group`) are
    the test split, chosen by a hash of their name, so that the choice never changes.
    """

    def __init__(
        self,
        data_root: str,
        clip: Mapping[str, Any],
        window: Mapping[str, Any],
        transforms: Sequence[Mapping[str, Any]] = (),
        replace_bad: bool = True,
        manifest: str | None = None,
        split: str = 'train',
        test_share: float = 0.1,
    ) -> None:
        root = Path(data_root)
        files = set(list_files(root, VIDEO_ENDINGS))
        if not files:
            raise UserError(f'data folder {root} holds no video files ({" ".join(VIDEO_ENDINGS)}).')
        table = Path(manifest) if manifest else _manifest_of(root)
        if table:
            rows = Manifest.read(table)
        else:
            names = sorted(files)
            rows = Manifest.from_columns({'file': names, 'clip_id': names}, source=str(root))
        rows = rows.pick([side == split for side in splits_of(rows, test_share)])
        if not len(rows):
            raise UserError(f"no clip of {table or root} is in the split '{split}'.")
        # A manifest may list other kinds of files, or paths that leave the folder: those are looked up one by one.
        found = rows.pick([file in files or (root / file).is_file() for file in rows.column('file')])
        say_found('VideoFolder', split, len(found), len(rows), root)
        if not len(found):
            example = rows[0].file
            raise UserError(f"none of the {len(rows)} clips that {table} lists is in {root} (for example '{example}').")
        super().__init__(found, root, clip, window, transforms, replace_bad)


def _manifest_of(root: Path) -> Path | None:
    root = root.resolve()
    inside = [root / f'manifest{ending}' for ending in ('.parquet', '.csv')]
    beside = [root.parent / f'{root.name}{ending}' for ending in ('.parquet', '.csv')]
    return next((path for path in (*inside, *beside) if path.is_file()), None)
