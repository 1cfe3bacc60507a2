"""What runs attempts: a protocol, and the engines that keep it."""
