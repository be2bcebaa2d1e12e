"""Networks from elsewhere: ReLU networks of torch, NIR, SpikingJelly, snnTorch."""
