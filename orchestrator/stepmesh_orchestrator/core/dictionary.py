"""What the frames of journals have in common: where compressing one begins, so that a frame of a few events is half as large, too.

Zstandard's trainer made it, from the events of recorded journals (`tests/replay`) and of waiting functions, a frame each, with other hashes
and ids in place of theirs. Invariant: it never changes, for journals need it to be read. A better one would be another, beside it: a
compressed frame names its dictionary by the id that is in both.
"""

from __future__ import annotations

import base64

EVENTS = base64.b85decode(
    "H>5D^S3)B?G!Vd>qysZBz0x-VF7APIioSh^NFNY>xAnUry2U6{N**JC1tfQpQp%Jz7Z6KEFb6}QkkbSh7zmC^gw&ZC000C4P}E8WNW-+4Jc=V(5@Z+*f-uSw<Ol&UGXM"
    "ZE00000bmU|sB%&c9qM!g_A)%q*AhKvA77CdKvj+eG0096100aO400;m805Xxp2YVuJB04gC3IM>sz`&q^sB>dzWn^`1Wu<UzVQFpvmLR2YY+-3`&j0`cmvmA$W@a)nF"
    "=jC_Wj1ES2YVuJB04dBws&uGYh`jSaCtg2GtU430ipwW{T{>smZ5W{axY<IWX}Kq0ipwW{UO8wGQa_up<}0VFLP{VWpJf*X>Db4rE_d$WpJ=FVP-TpF*Y$cFgZCgIAvn"
    "Q7<(dQb!A^|b0RunH8V0XWiw<jHZeFjeYS6MWMy)5E^v7|Gc?Zt00E){dHo^80D-4+FLP{VWpD$41kV5z(<X)k4xR#_006+iz>$;A1O8UP0D%C+2tnH%1ONa4004lHk("
    "d$LBrrBLH8nXoV=ZE4Wil-{F=R3=V=*;jEjKhaWMVluF*z_cV*mh?lc8eI0004^19}ATt}!bzWMpMGIAu9CGcz!mp<|_TFJWY4q;qs-aHC;lWUw$bGGa6^I51>0W@0mA"
    "VKc-Bdm?TkIx&5=VQ_FSb75y;E^v7|Gc(Ts00E){dIa#q0G6S1rE)J}WMt0(00E){dIa>u0W!b=kk0@E@eV?Jg!KWEm=W0|VKg#gVKif5EoLw=Wi2;kF=j0{G&VCWH)d"
    "uuG&5o{H#A~7005Dhp<}0VFLP{VWpJf*X>Db4rE_d$WpJ=DWiU87H8*5tHZf*nW@R?S7<(dQb!A^|b0RunWMwrnWHLB1H!(CYeYS6MWMy)5E^v7|Gc?Zt00E){dIa>u0"
    "FciB1Mv<*dxZ4@mJ-<{V>vW7IAbw6EoEgfFfBJ?W-%=}Gcsc>VlrklV>D$sV>V+k005u>lb-?EBxEu$I5jk5WGysiI5#afGB`CYWHx0qEjBP^IWT2rW;HT1W7#A!G&yE"
    "sGB#l?WMgGvEjKbSI4w0|VK*%_Ib$(4V>LKqHaIt@WMyVyb!>FmKrt~gIASz6GGa1gGB#pjVl!nlG&wjoV>o3sH)J(qGB-A3VKZYmH8VJ5IAUUBWHK{kGdDOiFf=hWF*"
    "Rg4IFZB&GBr6eFfcGKFbV*`z`($uzyOm1*(7B*F*h`1W-u)_WjQ!4H!(J4Eio`KI4xs0GGS#fHZ?h8H)Q~o1KA`uIA$|rF=b&bWHL5kEjKV`I4w9~IAbkkFg0U1F*9Z}"
    "H8L;&00EMi5!oa%H8Em0GB`CYI5TE8EjMB^H!U_dFfc7)VPQ05GBGh>VKQa_0F#rUV$T2o0ipwX1skq0D==d)VmLKqWHL2oHJPDfrE)J}WMrgsbY*a(VPs^mW@BSwH#c"
    "H7Vq#@8V>2{0#0PsKZX!A{eYR$7Z+CMpaCtg2GtU430ipwX1slWwmZ5W{axY<IWX}Kq0ipwX1s%izGQa_l&j1@!in)qmGXa$k*(79PWo9!qGC3_VW@Te7H#9jhEn+z_G"
    "A(8|WiT~3F*h?aH)78K00E+%_{B`c0k@U{3X$9Z7NDS~WMyVyb!>FmKs91HWiw(pFl1slGh<{jH)At1GdE;1Gi5nBFf=nbWjHouG+{6{Fg9alGGt^oHaR$DFlA$5F=S?"
    "DWn(clVv)cAz`(%3puo=n00E){dHqU80RR91!jYE%#0fGrIWjOXFfK5Wz{COy0K^bV{dohT0RR91000000001i0GR>+006+i0Kfo&0GgDOp<>Sf00E){dHqVRF)Lv*W;"
    "QZqGGQ||W@VY7W2JI0VPs^ab97~JqhVxZusLRCF=b>qW-~T1Fl0AnW5fr0B5oo&F@3geVQFqIaCtg2GtU430ipwW{Yu0DmZ5W{axY<IWX}Kq0ipwW{Y=CGGQa_up<}0V"
    "FLP{VWpJf*X>Db4rE_d$WpJ=CH)1n3H8wFhW-&Q9WHd9x7<(dQb!A^|b0Ru6WjSIvWnnmGFlAz5eYS03X>KlXc{(#R&j0`cq62yTOvC_zr*bcIY-MF|1Aqk2025}Fx&|"
    "ml0-yi@z`($flg<Pz9e@CV0K^CZqDlk+00000fRK`y5!oa-WoBeFW-(<gHaTK8EjKn~IW1;lV>2ybHezBpV`64DWnyCh0FjxYW2bU2b8Ka0aHVu<ZDn$$b8Ka0aIiKxH"
    "DWe0Ffe0bWn^M9FgU~*dm?0YWnXP`B04c-WHVwlV_`EiIWRbVwqbB^FLPmMVJ>iaIx{rS0004^19}A=!~l@b02@<^xr$*k0+tflBsnl)V>viDF)d^@WH&80HZ?XaWo0="
    "qEo3%kFk&$>GcY%1H2?sh0F$2q*(75(IWjXiW@as9WM(ieH)3KkEn+!lH7#X1GBRW_H!(OcH!#^GG&VIiIXGoyEiz+dIW0FeIW{d}G&5o?FfuYZW@a`yF*h|~r(|VjVR"
    "dYD*+6DyWnpGFG&C|YH85djG&VCdWH>l8V>L1|WoBhKH!v_ZI59agF)%eaHa0diVKp{oG&wglG+||8FgRmmF=dg&2{JV~GB7YOE-(rJz`(%3puhl=0@);CVL4`EIASv`"
)
