"""The checkpoint directory: its format, its files, and the one writer and many readers of them."""
