"""The network of Sec. 3.1-3.2: read efficientvis.py first, then the parts it names."""
