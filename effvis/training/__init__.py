"""Matching (Eq. 4), losses (Eq. 5), correspondence learning (Sec. 3.3) and the training loop."""
