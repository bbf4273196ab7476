"""The whole product on one machine: ``python -m examples.demo`` tells the story, ``… up`` leaves it running."""
