"""`rookery dev`: pushes the project to a scratch workspace on each save, and shows the results of changed pipes."""
