"""What the fleet of model servers costs and gains, each part measured against what it replaces."""
