"""QueryInst (Fang et al., ICCV 2021): detects and segments the objects of single frames."""
