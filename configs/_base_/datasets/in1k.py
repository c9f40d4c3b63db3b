# ImageNet-1k at 224 x 224. The folder comes from the environment variable IMAGENET_ROOT.
_base_ = 'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py'
data_root = '{{$IMAGENET_ROOT:data/imagenet}}'
train_pipeline = _base_.train_pipeline
train_pipeline[0].update(type='mmdat.LoadImageFromFile', skip_broken=True)
train_dataloader = dict(
    batch_size=128, dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
