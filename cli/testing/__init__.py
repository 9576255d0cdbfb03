"""`rookery test`: runs the test files of a project on a throwaway engine."""
