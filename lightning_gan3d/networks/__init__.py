"""Networks that every experiment shares: StyleGAN2 layers, and networks built of them."""
