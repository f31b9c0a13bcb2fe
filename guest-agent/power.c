#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

enum { TERM_GRACE_MS = 300, MAX_MOUNTS = 256 };

static bool wait_for_all(int64_t timeout_ms) {
  int64_t deadline = now_ms() + timeout_ms;
  for (;;) {
    pid_t pid = waitpid(-1, NULL, WNOHANG);
    if (pid < 0 && errno == ECHILD) return true;
    if (pid > 0) continue;
    if (now_ms() >= deadline) return false;
    usleep(2000);
  }
}

/* In reverse, as later ones may stand on earlier ones. What can't be unmounted is made read-only, so that it is clean. */
static void unmount_all(void) {
  char *targets[MAX_MOUNTS];
  int count = 0;
  FILE *table = setmntent("/proc/self/mounts", "re");
  struct mntent *entry;
  while (table && count < MAX_MOUNTS && (entry = getmntent(table))) {
    /* The disks: the kernel's own file systems have nothing to lose. */
    if (strncmp(entry->mnt_fsname, "/dev/", 5) == 0) targets[count++] = strdup(entry->mnt_dir);
  }
  if (table) endmntent(table);
  while (count-- > 0) {
    if (!targets[count]) continue;
    bool root = strcmp(targets[count], "/") == 0;
    if (root || umount2(targets[count], 0) < 0) mount(NULL, targets[count], NULL, MS_REMOUNT | MS_RDONLY, NULL);
  }
}

void power_off(void) {
  if (!is_init) exit(0);
  signal(SIGTERM, SIG_IGN); /* kill(-1) spares the first process, but not an agent that runs beside the image's init */
  kill(-1, SIGTERM);
  if (!wait_for_all(TERM_GRACE_MS)) {
    kill(-1, SIGKILL);
    wait_for_all(1000);
  }
  sync();
  unmount_all();
  sync();
  say("power off");
  reboot(RB_POWER_OFF);
  /* A machine type that can't power off can still be told to stop: QEMU runs with -no-reboot. */
  reboot(RB_AUTOBOOT);
  for (;;) pause();
}
