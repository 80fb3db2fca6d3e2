"""What a logged multi-task data set is."""
