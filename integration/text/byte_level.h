/* byte_level.h - the alphabet that byte-level BPE vocabularies are written in.
 *
 * Each of the 256 bytes has a printable character: itself where Latin-1 has one, otherwise one of
 * U+0100 and following. Source: bytes_to_unicode() of OpenAI's GPT-2 encoder.py (2019). */
#ifndef KVPAGER_TEXT_BYTE_LEVEL_H
#define KVPAGER_TEXT_BYTE_LEVEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character of each byte. */
void byte_level_alphabet(uint32_t chars[256]);

/* Translate the vocabulary's spelling (valid UTF-8, n bytes) into the bytes it stands for, at most
 * n of them. False, and nothing written, if a character is not in the alphabet. */
bool byte_level_to_bytes(const char *spelling, size_t n, char *bytes, size_t *n_bytes);

#endif
