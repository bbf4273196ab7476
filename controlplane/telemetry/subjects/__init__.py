"""What is measured, a file for each subject: its metrics declared, and below them the methods that tell them."""
