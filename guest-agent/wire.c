#include <string.h>

#include "agent.h"

/* Little-endian throughout; both architectures are, but the bytes are put together by hand so that it stays true. */

static const uint8_t *take(struct reader *r, size_t length) {
  if (r->bad || (size_t)(r->end - r->at) < length) {
    r->bad = true;
    return NULL;
  }
  const uint8_t *at = r->at;
  r->at += length;
  return at;
}

uint8_t get_u8(struct reader *r) {
  const uint8_t *p = take(r, 1);
  return p ? p[0] : 0;
}

uint16_t get_u16(struct reader *r) {
  const uint8_t *p = take(r, 2);
  return p ? (uint16_t)(p[0] | p[1] << 8) : 0;
}

uint32_t get_u32(struct reader *r) {
  const uint8_t *p = take(r, 4);
  return p ? (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24 : 0;
}

uint64_t get_u64(struct reader *r) {
  uint64_t low = get_u32(r);
  return low | (uint64_t)get_u32(r) << 32;
}

const uint8_t *get_bytes(struct reader *r, uint32_t *length) {
  *length = get_u32(r);
  const uint8_t *p = take(r, *length);
  if (!p) *length = 0;
  return p;
}

const char *get_string(struct reader *r) {
  uint32_t length;
  const uint8_t *p = get_bytes(r, &length);
  const uint8_t *nul = take(r, 1);
  if (!p || !nul || *nul != 0 || memchr(p, 0, length)) {
    r->bad = true;
    return "";
  }
  return (const char *)p;
}

static uint8_t *claim(struct writer *w, size_t length) {
  if (w->full || (size_t)(w->end - w->at) < length) {
    w->full = true;
    return NULL;
  }
  uint8_t *at = w->at;
  w->at += length;
  return at;
}

void put_u8(struct writer *w, uint8_t value) {
  uint8_t *p = claim(w, 1);
  if (p) p[0] = value;
}

void put_u16(struct writer *w, uint16_t value) {
  put_u8(w, (uint8_t)value);
  put_u8(w, (uint8_t)(value >> 8));
}

void put_u32(struct writer *w, uint32_t value) {
  put_u16(w, (uint16_t)value);
  put_u16(w, (uint16_t)(value >> 16));
}

void put_u64(struct writer *w, uint64_t value) {
  put_u32(w, (uint32_t)value);
  put_u32(w, (uint32_t)(value >> 32));
}

void put_bytes(struct writer *w, const void *bytes, size_t length) {
  put_u32(w, (uint32_t)length);
  uint8_t *p = claim(w, length);
  if (p && length) memcpy(p, bytes, length);
}

void put_string(struct writer *w, const char *text) {
  put_bytes(w, text, strlen(text));
  put_u8(w, 0);
}
