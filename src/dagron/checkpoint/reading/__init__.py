"""What a checkpoint says: read without its lock, changing nothing, unpickling nothing."""
