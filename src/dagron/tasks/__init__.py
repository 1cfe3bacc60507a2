"""What an author writes: tasks with options and arguments, handles, and how a task takes its inputs. Runs nothing."""
