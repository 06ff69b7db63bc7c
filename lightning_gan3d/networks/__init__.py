"""Networks that every experiment shares: StyleGAN2 layers and what is built of them."""
