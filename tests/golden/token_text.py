"""Deterministic text that tokenizers get wrong: make(seed, n_chars)."""

import random

SENTENCES = """The quick brown fox jumps over the lazy dog; it's 3.14159 o'clock, isn't it? They'll've gone.
Der schnelle braune Fuchs springt über den faulen Hund – „natürlich“, sagte er, und 1.234.567,89 € mehr.
Le renard brun saute par-dessus le chien paresseux ; c'est l'été à Orléans, n'est-ce pas ?
El veloz murciélago hindú comía feliz cardillo y kiwi. ¿Dónde está el baño? ¡Ahí!
Ο γρήγορος αλεπού πηδάει πάνω από τον τεμπέλη σκύλο. Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.
Съешь же ещё этих мягких французских булок, да выпей чаю. Жебракують філософи при ґанку церкви.
人工智能是计算机科学的一个分支，它企图了解智能的实质。二〇二四年十二月三十一日，共１２３人。
東京は日本の首都であり、世界最大の都市圏の一つです。コーヒーを飲みながら「吾輩は猫である」を読んだ。
대한민국의 수도는 서울이며, 약 천만 명이 살고 있습니다. 그렇지요?
مرحبا بالعالم، كيف حالك اليوم؟ ١٢٣٤٥ كتابًا في المكتبةِ الكبيرة.
שלום עולם, מה שלומך היום? בְּרֵאשִׁית בָּרָא אֱלֹהִים.
नमस्ते दुनिया, आप कैसे हैं? १२३४५ क्षत्रिय ज्ञान और श्रृंखला।
বাংলা ভাষা একটি সুন্দর ভাষা। ১২৩ টি বই।
தமிழ் ஒரு பழமையான மொழி. ௧௨௩ நூல்கள்.
สวัสดีชาวโลก วันนี้อากาศดีมาก ๑๒๓๔๕ น้ำแข็งไส
Xin chào thế giới, hôm nay trời đẹp quá! Tiếng Việt có nhiều dấu thanh.
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Árvíztűrő tükörfúrógép.
İstanbul'da yağmur yağıyor; ığdır'ın şeftalisi. DİYARBAKIR'DAN ISPARTA'YA.
ሰላም ለዓለም ᎣᏏᏲ ᐊᐃᓐᖓᐃ ᠮᠣᠩᠭᠣᠯ ქართული ენა Հայերեն լեզու
Cafe\u0301 nai\u0308ve A\u030A \u1E9B\u0323 \uFB01ne \u212Bngstr\u00F6m \u2126 x\u00B2 \u2460\u2161\u00BD
👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇯🇵 👍🏽 ❤️ 🤷🏾‍♀️ 😀😃😄 ✅➡️™️ 1️⃣2️⃣
for (int i = 0; i < n; i++) { x[i] += 0x1F & ~mask; } /* it's */ return a->b != NULL;
def f(self, *args, **kw):\n\tif not args:\n\t\treturn None\n    yield {k: v for k, v in kw.items()}
SELECT count(*) FROM "t" WHERE a >= 10 AND b LIKE '%x%' -- 'll 're 'VE 'S 'T I'M HE'D WE'LL
<div class="a b">&nbsp;<!-- x --></div>\r\n\r\n  {"key": [1, 2.5e-10, null, true], "s": "\\u00e9\\n"}
https://example.org/a_b/c?d=e&f=%20#g  user.name+tag@example.com  C:\\Users\\x  $HOME/.x ~/y 10:30:59
"""
SENTENCES = [s for s in SENTENCES.split("\n") if len(s) > 1]

SPECIALS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<|im_start", "im_end|>",
            "<file_sep>", "<empty_output>", "<jupyter_code>", "<|im_<|im_end|>"]
SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\n\n", "\r\n", " \n", "\n ", "\v", "\f", "\x85",
          "\xa0", "\u2003", "\u3000", "\u200b", "\u2028", "\ufeff", "\u180e", " \t \n  ", "\r"]
EDGES = ["'s", "'S", "'\u017f", "'ll", "'LL", "'lL", "''s", "'", "'re", "'r", "\u2019s", "\x00",
         "\x1b[0m", "\x7f", "a" * 300, "!" * 90, "=" * 64, " " * 130, "\n" * 40, "\u4e2d" * 120,
         "1234567", "12 345", " 1", "\u0967\u0968", "\u2167", "\u00bd", "\U00011de1", "\U00016ff4",
         "\u0301", "\U0001f600" * 9, "\u200d", "\ufffd", "\U0010ffff", "\ue000", "\ufdd0"]


def code_point(r):
    while True:
        c = r.choice([r.randrange(0x300), r.randrange(0x3000), r.randrange(0x10000),
                      r.randrange(0x1F000, 0x1FB00), r.randrange(0x110000)])
        if not 0xD800 <= c < 0xE000:
            return chr(c)


def part(r):
    k = r.random()
    if k < 0.55:
        s = r.choice(SENTENCES)
        a = r.randrange(len(s) // 2)
        return s[a : a + r.randrange(10, len(s) + 10)] + r.choice([" ", "\n", "", "  "])
    if k < 0.65:
        return "".join(r.choice(SPACES) for _ in range(r.randrange(1, 6)))
    if k < 0.75:
        return r.choice(EDGES) if r.random() < 0.95 else r.choice(SPECIALS)
    if k < 0.77:
        return r.choice(SPECIALS)
    if k < 0.87:
        return "".join(code_point(r) for _ in range(r.randrange(1, 12)))
    if k < 0.95:
        return "".join(chr(r.randrange(32, 127)) for _ in range(r.randrange(1, 20)))
    return str(r.randrange(10 ** r.randrange(1, 12)))


def make(seed, n_bytes):
    r = random.Random(seed)
    parts, n = [], 0
    while n < n_bytes:
        parts.append(part(r))
        n += len(parts[-1].encode())
    return "".join(parts)


def cut(text, n_bytes):
    """Pieces of about n_bytes each, as bytes, cut between characters."""
    raw, pieces, at = text.encode(), [], 0
    while at < len(raw):
        end = min(at + n_bytes, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end += 1
        pieces.append(raw[at:end])
        at = end
    return pieces
