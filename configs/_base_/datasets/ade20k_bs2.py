# ADE20K with two images a GPU: 16 a step on eight.
_base_ = './ade20k.py'
train_dataloader = dict(batch_size=2)
