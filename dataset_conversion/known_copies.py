"""Which scan a case shows, as far as that is published or follows from sizes: a check of the fingerprints."""

from __future__ import annotations

from nnunetv2_clip.imaging.header_repairs import FIRST_LITS_NUMBER, ircadb_patient

# Number there = number in the original: found by equal size and voxel size where only one scan has them.
ABDOMENCT_1K_LITS = """
    66=10 67=11 68=12 69=13 71=15 72=16 73=17 74=18 75=23 77=3 81=75 84=78 85=79 87=81 88=82 259=1 260=104 261=108
    262=113 263=114 264=115 266=126 268=130 273=28 275=36 278=39 281=41 282=42 283=43 285=45 288=5 289=56 290=61
    291=67 294=70 298=83 299=84 302=88 305=99 462=29 463=51 464=53 466=55 467=57 468=58 469=59 470=60 471=62 472=63
    473=64 475=91 476=95 561=105 562=106 566=120 567=123 570=128 572=22 573=27 574=30 576=32 577=33 581=52 582=65
    583=66 586=89 587=90 589=96 590=97
"""
ABDOMENCT_1K_KITS = """
    2=4 8=10 9=11 14=38 15=46 17=48 19=50 20=51 22=53 23=54 24=55 25=56 26=57 30=98 31=106 36=111 37=112 39=114
    40=115 42=124 45=152 46=161 53=171 55=175 56=183 60=199 61=200 62=201 63=202 64=203 202=1 203=2 206=18 207=19
    208=20 210=36 211=37 212=39 213=40 214=41 216=43 222=76 223=87 225=89 229=93 231=96 232=101 234=105 237=132
    238=136 239=137 240=138 242=140 244=143 245=144 248=147 249=153 252=182 254=189 256=208 257=209 401=22 403=24
    410=32 411=33 412=34 413=35 414=59 417=62 418=63 419=64 420=65 421=66 423=69 425=73 427=77 428=78 430=80 431=81
    432=85 433=97 434=116 435=121 436=122 437=131 441=159 442=160 445=184 446=186 451=193 521=21 522=82 523=83
    526=99 527=100 530=118 537=129 538=133 539=134 540=149 541=150 543=156 544=157 545=158 547=163 549=172 550=176
    554=194 556=206 557=207 664=216 667=220 668=222 671=226 674=231 675=232 677=241 678=242 679=243 682=247 684=252
    685=253 687=256 690=266 692=268 693=269 695=271 696=272 699=275 700=276 702=279 706=291 708=294 709=295 712=299
    724=210 726=212 727=213 734=230 735=234 738=237 739=238 740=239 741=240 742=245 743=248 744=250 751=263 757=283
    759=285 761=287 764=296
"""
ABDOMENCT_1K_MSD_SPLEEN = """
    181=10 182=12 183=13 184=14 185=16 186=2 191=26 194=29 195=3 196=31 199=8 394=20 395=33 397=49 399=59 400=61
    512=18 515=40 516=41 517=45 518=46 519=47 661=60 663=63
"""
FLARE22_MSD_PANCREAS = """
    1=1 2=4 3=6 5=16 6=21 9=49 10=55 11=56 13=89 14=91 15=94 16=95 17=96 21=104 22=105 24=109 25=119 27=125 28=227
    29=231 30=241 31=242 34=253 35=254 36=256 37=258 38=264 43=300 44=302 45=303 46=304 47=308 48=309 50=313
"""


def _pairs(text: str) -> dict[int, int]:
    return {int(there): int(original) for there, _, original in (pair.partition("=") for pair in text.split())}


LITS, KITS, PANCREAS, SPLEEN = "LiTS number", "KiTS number", "MSD Pancreas number", "MSD Spleen number"
NUMBERED_AS = {  # these keep the numbers of the original
    "lits": LITS,
    "msd_liver": LITS,
    "kits19": KITS,
    "kits21": KITS,
    "kits23": KITS,
    "msd_pancreas": PANCREAS,
    "msd_spleen": SPLEEN,
}
RENUMBERED = {
    "abdomenct_1k": {
        LITS: _pairs(ABDOMENCT_1K_LITS),
        KITS: _pairs(ABDOMENCT_1K_KITS),
        SPLEEN: _pairs(ABDOMENCT_1K_MSD_SPLEEN),
    },
    "flare22": {PANCREAS: _pairs(FLARE22_MSD_PANCREAS)},
}


def known_scan(dataset: str, number: int) -> tuple[str, int] | None:
    """(whose number, number) of the original scan behind a case; None where nothing is known."""
    if dataset in NUMBERED_AS:
        return NUMBERED_AS[dataset], number
    for original, numbers in RENUMBERED.get(dataset, {}).items():
        if number in numbers:
            return original, numbers[number]
    # Equal numbers of CT-ORG are not always equal scans; those of the patients of 3D-IRCADb-01 are.
    patient = ircadb_patient(dataset, number) if dataset in ("ct_org", "ircadb") else None
    return (LITS, FIRST_LITS_NUMBER - 1 + patient.patient) if patient else None
