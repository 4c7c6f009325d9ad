"""Evaluation of generated sound and video: pure functions of features, class scores, waveforms and frames."""
