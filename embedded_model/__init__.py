"""Training, export and evaluation of the small edit model that ships with the repository; see README.md."""
