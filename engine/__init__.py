"""What is computed: models, image sets, targets, localisation, fitness, swarm and metrics. Knows no Ray, no click."""
