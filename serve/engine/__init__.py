"""Step-level batching: `scheduler` decides, `runner` computes, `engine` owns the thread and the futures."""
