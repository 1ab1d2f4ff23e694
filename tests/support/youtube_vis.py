"""The names of YouTube-VIS's categories in the order of their ids, as in mmdetection's youtube_vis_dataset.py (394f758)."""

NAMES_2019 = tuple((
    "person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat cow fish train horse "
    "turtle bear motorbike giraffe leopard fox deer owl surfboard airplane truck zebra tiger elephant snowboard boat shark "
    "mouse frog eagle earless_seal tennis_racket"
).split())
NAMES_2021 = tuple((
    "airplane bear bird boat car cat cow deer dog duck earless_seal elephant fish flying_disc fox frog giant_panda giraffe "
    "horse leopard lizard monkey motorbike mouse parrot person rabbit shark skateboard snake snowboard squirrel surfboard "
    "tennis_racket tiger train truck turtle whale zebra"
).split())
