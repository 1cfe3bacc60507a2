"""Worker processes: how they start, what runs in them, and how none of them outlives the coordinator."""
