"""The Ray Serve application. Only this folder and the command line import ray."""
