"""Mutants that no test can notice, since they do what the right code does, and why."""

_SIDES = 'the check is alike for both sides, only its sentence names them'
_SWAPPED = 'the same two dimensions'
_LEAVES_NOTHING = 'a mask is made that leaves nothing out'
_CLIPPED = 'the other side of the square is as long as before, and its diagonal no longer'

EQUIVALENT: dict[tuple[str, str, str], str] = {
    ('retrieval_ranks', 'demand_pairs(query, gallery)', 'demand_pairs(gallery, query)'): _SIDES,
    ('two_way_ranks', 'demand_pairs(video, audio)', 'demand_pairs(audio, video)'): _SIDES,
    ('two_way_best', 'demand_pairs(video, audio)', 'demand_pairs(audio, video)'): _SIDES,
    (
        'Gallery.similarity',
        'if most is None or total <= most:',
        'if most is None or total < most:',
    ): 'means of blocks of one are what they are means of',
    (
        'semantic_nce',
        'if ignore_within > 1:',
        'if ignore_within >= 1:',
    ): 'of one row in succession no others are left out',
    (
        '_Plan._left_out',
        'if n == 1 or first // n > (column.stop - 1) // n or (last - 1) // n < column.start // n:',
        'if n == 1 or first // n > (column.stop - 1) // n or (last + 1) // n < column.start // n:',
    ): _LEAVES_NOTHING,
    (
        '_Plan._left_out',
        'if n == 1 or first // n > (column.stop - 1) // n or (last - 1) // n < column.start // n:',
        'if n == 1 and first // n > (column.stop - 1) // n and ((last - 1) // n < column.start // n):',
    ): _LEAVES_NOTHING,
    (
        'temporal_nce',
        'return _match_within(scale * video @ audio.transpose(1, 2))',
        'return _match_within(scale * video @ audio.transpose(2, 1))',
    ): _SWAPPED,
    (
        'segment_nce',
        'return _match_within(scale * v @ a.transpose(1, 2) / video.shape[1])',
        'return _match_within(scale * v @ a.transpose(2, 1) / video.shape[1])',
    ): _SWAPPED,
    (
        '_match_within',
        'return (F.cross_entropy(logits.transpose(1, 2), target) + F.cross_entropy(logits, target)) / 2',
        'return (F.cross_entropy(logits.transpose(2, 1), target) + F.cross_entropy(logits, target)) / 2',
    ): _SWAPPED,
    (
        'min_snr_weight',
        'return torch.minimum(alpha ** 2, gamma * sigma ** 2) * prediction_gain(alpha, sigma, prediction, data_std) ** 2',
        'return torch.minimum(gamma * sigma ** 2, alpha ** 2) * prediction_gain(alpha, sigma, prediction, data_std) ** 2',
    ): 'the lesser of two in any order',
    (
        'tiled_sigmoid',
        'plan = _Plan(sizes or batch_sizes(len(video[0])), tile, ring, ignore_within=1)',
        'plan = _Plan(sizes or batch_sizes(len(video[1])), tile, ring, ignore_within=1)',
    ): 'every scale has the same clips',
    (
        '_match_within',
        'target = torch.arange(logits.shape[1], device=logits.device).expand(len(logits), -1)',
        'target = torch.arange(logits.shape[2], device=logits.device).expand(len(logits), -1)',
    ): 'the blocks are square',
    (
        '_Sums.add',
        'higher = torch.maximum(top, logits.amax(dim))',
        'higher = torch.maximum(logits.amax(dim), top)',
    ): 'the greater of two in any order',
    ('_set_own', 'if first < last:', 'if first <= last:'): 'an empty diagonal is copied',
    (
        '_set_own',
        'square = tile[first - rows.start:last - rows.start, first - columns.start:last - columns.start]',
        'square = tile[first - rows.start:last + rows.start, first - columns.start:last - columns.start]',
    ): _CLIPPED,
    (
        '_set_own',
        'square = tile[first - rows.start:last - rows.start, first - columns.start:last - columns.start]',
        'square = tile[first - rows.start:last - rows.start, first - columns.start:last + columns.start]',
    ): _CLIPPED,
}
