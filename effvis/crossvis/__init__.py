"""CrossVIS (Yang et al., ICCV 2021): segments single frames, and learns to know instances again in another frame."""
