"""Networks of SpikingJelly and snnTorch."""
