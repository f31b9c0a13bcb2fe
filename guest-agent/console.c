#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "agent.h"

/* One line on the console: "smolvm: ..." so that the host finds it between the kernel's own. */
void say(const char *format, ...) {
  char line[512];
  int prefix = snprintf(line, sizeof line, "smolvm: ");
  va_list args;
  va_start(args, format);
  int length = vsnprintf(line + prefix, sizeof line - (size_t)prefix - 1, format, args);
  va_end(args);
  if (length < 0) return;
  size_t used = (size_t)prefix + (size_t)length;
  if (used > sizeof line - 2) used = sizeof line - 2;
  line[used++] = '\n';
  /* A console that is gone or full must not stop the machine. */
  ssize_t ignored = write(STDERR_FILENO, line, used);
  (void)ignored;
}
