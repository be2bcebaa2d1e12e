"""Parts of the commands about a GPU: rivals, compiled variants, the roofline model."""
