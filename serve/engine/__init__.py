"""Step-level batching: `scheduler` decides, `runner` computes, `ledger` knows where each job is, `engine` loops."""
