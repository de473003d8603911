/* nfc.h - Unicode's canonical composition (UAX #15), as some tokenizers want their text. */
#ifndef KVPAGER_TEXT_NFC_H
#define KVPAGER_TEXT_NFC_H

#include <stddef.h>

#include "kvpager/status.h"

/* Compose n bytes of valid UTF-8. *out is malloc'd, the caller's; NULL: nothing changes.
 * Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status nfc_compose(const char *text, size_t n, char **out, size_t *n_out);

#endif
