"""All that opens, writes, syncs, renames, locks or deletes files of a checkpoint. Knows no format.

Assumptions about the file system, which everything above leans on: a rename within a directory is atomic; `fsync` of a
file makes its bytes durable and `fsync` of a directory its entries; an append that returned is seen by every later
reader, also after the writer was killed; `flock` is released by the kernel when its holder dies.

Symbolic links are never followed at the names that we write.
"""
