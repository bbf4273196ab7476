"""The example model: who will see a doctor, learnt from real survey rows. See README.md for the source."""
