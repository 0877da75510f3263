"""What trainings of different systems share: a loop that continues exactly where it stopped."""
