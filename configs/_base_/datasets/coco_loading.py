# How COCO 2017 is read by recipes with pipelines of their own. The folder comes from the
# environment variable COCO_ROOT.
COCO = dict(type='mmdat.CocoDataset', data_root='{{$COCO_ROOT:data/coco}}/')
COCO_VAL = dict(
    type='mmdat.CocoMetric', ann_file=COCO['data_root'] + 'annotations/instances_val2017.json')
