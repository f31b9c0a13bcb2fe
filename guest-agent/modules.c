#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

static int load(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  int error = 0;
  if (syscall(SYS_finit_module, fd, "", 0) < 0) {
    error = errno;
    if (error == ENOSYS) { /* before Linux 3.8 */
      struct stat s;
      void *image = MAP_FAILED;
      if (fstat(fd, &s) == 0) image = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
      if (image != MAP_FAILED) {
        error = syscall(SYS_init_module, image, (size_t)s.st_size, "") < 0 ? errno : 0;
        munmap(image, (size_t)s.st_size);
      }
    }
  }
  close(fd);
  return error == EEXIST ? 0 : error; /* built in, or loaded before */
}

/* Those that the image's initrd brought, in the order that it says. A kernel with everything built in has none. */
void load_modules(const char *folder) {
  char path[512], line[256];
  snprintf(path, sizeof path, "%s.order", folder);
  FILE *order = fopen(path, "re");
  if (!order) {
    say("no modules to load");
    return;
  }
  int count = 0;
  while (fgets(line, sizeof line, order)) {
    line[strcspn(line, "\r\n")] = 0;
    if (!*line) continue;
    snprintf(path, sizeof path, "%s/%s", folder, line);
    int error = load(path);
    if (error) {
      say("module %s: %s (errno %d)", line, strerror(error), error);
    } else {
      count++;
    }
  }
  fclose(order);
  say("%d modules loaded", count);
}
