"""What all translations share: torch.fx's view of a model, layers built of it, and the comparison with the original."""
