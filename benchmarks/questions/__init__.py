"""What is asked: one module per question, see `benchmarks.question.Question`."""
