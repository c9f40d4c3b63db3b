# How images and masks of ADE20K are read, tested, and tested at several scales. The folder comes
# from the environment variable ADE20K_ROOT.
ADE20K = dict(data_root='{{$ADE20K_ROOT:data/ade/ADEChallengeData2016}}')
LOAD_TO_TRAIN = [
    dict(type='mmdat.LoadImageFromFile', skip_broken=True),
    dict(type='mmdat.LoadSegmentationMap'),
]
PACK_TO_TRAIN = dict(type='mmdat.PackSegInputs')
TEST_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(2048, 512), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
# The size of a test image, times each, and its mirror image.
TTA_PIPELINE = [
    dict(type='LoadImageFromFile'),
    dict(type='TestTimeAug', transforms=[
        [dict(type='Resize', scale=(int(2048 * ratio), int(512 * ratio)), keep_ratio=True)
         for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)],
        [dict(type='RandomFlip', prob=0.0, direction='horizontal'),
         dict(type='RandomFlip', prob=1.0, direction='horizontal')],
        [dict(type='LoadAnnotations')],
        [dict(type='PackSegInputs')],
    ]),
]
