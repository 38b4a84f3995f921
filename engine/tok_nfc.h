/* tok_nfc.h - text in Unicode normalization form C, for tokenizers that want it.
 *
 * The reference library normalizes by Unicode 13 or so: marks that came later stay where they are
 * there, and are put in order here.
 *
 * Decomposition, classes and composition are utf8proc's; the reordering of marks is done here,
 * because a long run of them takes its square there.  Text without a character from U+0300 on
 * is in form C already and costs one look at its bytes.
 *
 * Thread: any; no state. */
#ifndef ENGINE_TOK_NFC_H
#define ENGINE_TOK_NFC_H

#include "base/status.h"
#include "base/str.h"

/* *out = text in form C: text itself when it is that already, else *owned, to be freed.  False
 * with BUSY when memory is out.  The text is valid UTF-8. */
bool tok_nfc(struct str text, struct str *out, char **owned, struct status *st) MUST_CHECK;

#endif
