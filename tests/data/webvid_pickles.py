# SPDX-License-Identifier: Apache-2.0
"""A small made-up table of captions as several versions of pandas pickle it (zlib, base 85).

Columns video_id 7, 8, 9; txt_len 3, 80, 2; page_dir 000001_000050, p, None; text " A cat runs",
"long", "a dög ".
"""

from __future__ import annotations

PICKLES = {
    "pandas 1.1.5, protocol 4": (
        "c-oCqQESvd5Wd{yuGiK>3Ks24IUm&1hj0fK6a>*0K@X$!y@XA&W<!%r*xl4S@IW7~TG+Ra;4kqH_``H|lY^^Na36"
        "LiyYtP=H~IFn`~63!WtZM536F{NqC!ybgCIEty?I0wd1d`ec=!btFw$<2Cj#{TdU(ne6`W+!%Lyk56%zD~mst^=z"
        "OBD&_~-=jcdi0sI-}AHiNtbS0jD2>*X9fXY+H9%zAYSMGoW{Qm6!7xo>!Sli4bIt^#Vbof=eZ;NFhXbZ6N3kEN4S"
        "5VcJ^4p%cPaIEK;GnYv40ySf{zd1)Bx_PZx=@vXk?Xy+67zW?SoF1t;iD+n(PhyGa_(;`S?%&ulC$S4QhFOg{wr#"
        "Ku}(U}5@;o9Y9dVY0|N!dW}UB_M!o*4Sa#;#Fjk9^&giU@_BYgekG1ndhPijHG*QtXG_Vz&)7wzneIo_5ZG?dx`W"
        "h0wFV2(=8M!|_HffmXk<n~iOx(R$z5c4Gly|EhV{4rnkoYZ93K@ffsIg0HuSFNP6OLs4<mhnp2V!TFJ4{Oe~jw9~"
        "R=2JEKczH?25Ws{%XWA{xw4yYOIe_$T4(K?1MK=;Pp<iMNM@*?;vfNkksXoM>PG3LB?MzYG>Jk@<vet?(QeLt*H)"
        "Se;Im0225t1g^@V+vQMnS>oN#!m6fZBA(=tt0}}8$K?h=hZ_Ca;k_G_z7ktO5qb)Koxp_02O;w^Z"
    ),
    "pandas 1.3.5, protocol 4": (
        "c-n1~QESvd5XY0doV~MJP|#Ww$z$uoaXttNf@npk!6<zc%CgDsCBe-mY&P}|EYyddE$myzui_W*gX!#EN_*Oc?Cd"
        "6!ncwXE_c-`@-1potcWNpbZN_P(_;{*l$-#`?Qcd5v^*QW(ha=cF0Vy*D=J8ecLTaug70tM$l4e{rU~at;Rr=+_a"
        "*w~8(X^GRt}1~a*J`SCL4|$)==w;B{T*FLk{=ScLFW_LhwXf0=Lk$7Sy4jNYhn$FxhLDQo-bpRt-#ny(K%8O#nVb"
        "QTD7UR*#^!L2{5N~IfuwQfn7g=A2xX8N4==OfPB*on4Z_Ra?>lG!`bQbd*ApkA&%qse{i@d@{r(cce1uTNpINMQD"
        "?go_C9sC*IBUO!=x<`S7N1uMieP`K*-?RbPIg)^?c*9?)+|7a(+MGvgG;0RqoLAKCaMy`-k?Gr9Hq--"
        "k#X;l-T*%1dLxpY}UiqVM=wVT8k8jN@jRiG-SVjWg&2z_z7kTF8LN<gFRU7BI7fTJ){k)=q9l(+_UenxO~qHF4j&"
        "@3^fM-R}<joh2tE4Ef}vz!4O2xG!a~a8P=#P!U~jPp!rNYG!%u^YTUYWi_F$_P>RaTQtexNg(UwRV+%A26B}THMp"
        "rf9`Qd`&!gn#bo$v~vFi@G6{NkpNl56TpIlxX*t?>?^N^g*<pqX24QX#6thOoBAK2yz!pb5v@aN4xV_%CjbRBZ"
    ),
    "pandas 1.3.5, protocol 2": (
        "c-nPSX_M485cSMnthgcJh74!CNf>51mn+=IVlYHN;v_6WwzXpy9^227VYiB@f)6{({vrNAei+EIp$aPKgIZFnpZY"
        "y@zikIOPeU%dK~{+FV!;Q3+~kViHY->&@6Z~eZF}REWwAlOz}Qz2ajHa-@<etAJmq~+NOC>Nf|n2K9l?08Sf+u>v"
        "P6=c7b@ln!Nhkk{3=wERJ>+pNieyBDT;M=G&wWGw8<h3;{k}%maf8jKS;|#zFY$h%0%NA1z#qt5J8qoRg{4u*ihd"
        "h`c31-M#oygrho-mC;~}DS}h1RdoBHdk1gJ$wh32pI*Y9%Y@^t|iXSL`w4IjIcE(27(Ljc3IoFXpy|#{s=df$-{V"
        "H}-?6I9OgLVmfUDv($Q4cdYmcl-NE!yn$w0Fv?$GXN&H+HPCj~d%<EcQn_p92&>DRlgRF~5v8>69@dlQ__s9CR$5"
        "VQUqKC=QQsgyLv45osNdQT$x%Xh)5FGk&xoGFto+X@b8}{Pu<5@u=qXa1Pyy(+P^+XHIW0`!%O43Mc)w1)Q?IjoR"
        "O<#w@GmGd-L(F*(k--g>?0T<Zi}b&4{TIBR}1$<jW~d6gEt6aM$1-@%+vIPXUXbuQx-nF|ybN4P|Bd4%5=aK-+nf"
        "<mz*bp3EC2&>9xzB(be`u%IojcY?(ud6%MWse)51-V%Xa*N`2CCK;+?nFJ!@2>4tKlLgOMaJR~^CoGvq*x+S+%wK"
        "x7d{K)0*--IVoBk?rt`qB%U3rRT(=zIA;qKU|1&Ij+82aYbCc&ELr^<%U2j5TNToXoj~&Y(N|oh!qQ9ozh#XIymd"
        "5{+;x93RNAY*vzPeQLk2l?LHO-"
        "EH&7KW};zodH3s^93aHR@~=R+{l3~VvseTf%CaBpYjPLk}kWMP@>vg1myg!>|q@ZZbQ?|uS__EZo"
    ),
    "pandas 1.5.3, protocol 5": (
        "c-n1KO>fgc5RDUuq_haA#Mh<D1(9AtdO+fURFxtmurO8c)oN{TY^&?FwO-Ryq7obktu!|VehPnp9|p4<N2G{7%#7"
        "`s+4p9iKlQ(}UdJ7{TXB`}dJ>mfOlF!F0%7A7H~h7Wzv1p@yudN|tVlJ&&U$*TjL?e9dQx!3Q=w~wt(UTlPv0${s"
        "T}UN6-?$){kH_+HfvOs$EQ-T$ky28ZPgUj`La8OLgz8UCY$N9h??2VbsYbgF0pq8tsl02qxCJf&Qa^Ttw-"
        "p){^S#LURid~&7b4d<ySn$anJ+r1%_ex_BS18f{wu`=mxz7f_I39(qI@hxiq;V3jJE<v27D{D9N*3g08jMCfr-"
        "2QZ!V+wdQp77SkdwRc&+=8!FB2z<>tiKH5fK@X(8J3CLSsooz$+{WX{$|ADzrFt1K%O}D1@>@jPfO$l^`A#9EgMl"
        "m-d-B{4RELDmy;G^W%&vb->YO@`>$zNx%K-=!&^>rs=F6v3dYZA##ro<V0W8Ya8`_Ny-PA&;a2(!o86U!*uUGeeh"
        ";i*G9{E#Q2WO+hR%-"
        "k?36wS6G*{~!hrTIq8jROb1vQiA2g`MmHJo+Cf%~fhq9b3PKBs&UeO@?bjvjx94WrZ|B3Iqk7>nW@ug_9;o{1*A@"
        "M_`38+)+89ZF6Ht;ui=v*i7=&g%7xt<yp;=rXnqHBbeloAbnrfO*Huf5%oqD"
    ),
    "pandas 2.2.3, protocol 4": (
        "c-n1}!EV$r5QaC|EZtI|swzRbpomjB5G{vF96&7;Awfhyy;qi#xJgvUiEM}NN>qXaODp--"
        ";Z=A69t_6bRO|vic*e=h_?z+nIrx4s9Jpn+S}Jm?qO6fDI+3(yVAfwzO<z0z3LbrdbJ#TjsS63_!E$&dG?RjI71d"
        "PGf=LDD)=S=Gr|%YLOgDG?48p5a{Ye3{NjlM1*(qlvwK*<Wbagw6h$~-"
        "rTvt>|I>WL=vaAtG%P!M4a^xbxtYL8%as~0=D;#<$e1jv{jlI~9hjS=5%_!Hi*0y5&>M2}aEdCFT_Y9IGdHV~O+v"
        "0(S^zv}BwiwM|+}riu_9Gj7=&j#dz%(;Xy9#jyHa1ec%9sN}2G3p>`*trk$~)zj#Vog1A$N@beg*B*UugRl?HJ$T"
        "_Qb9y#O`|&FkTCZ*$7{R8P%ce?EL|6M1hl`VgB<+5dy>9@*&<7EW^yfmfKl<&zwz}ic+dj1viOcXXK6jhP{-"
        "}&FI>9ddN{D@NYi>9v(Z=@y9A>4XJWO(Nj%06JW+I>Vo7IN-5B6svVpOgw<No&Fzr(&HevDNh%6Ub!6=lNtq-"
        "#aZRPhd7D7#rUjfJIt(4p)ns-<38M~B-In}X>7-"
        "_wx>k<y;i%TA;d3xI$O)%~bMH~kn=?i7uEl4inh{P@h627&T^juce1$qX"
    ),
}
