"""Making a data set ready for training: measure every clip, leave out the unusable ones, write a manifest."""
