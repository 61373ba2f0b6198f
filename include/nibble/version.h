/* version.h: the version of these headers, and of the library that was loaded. */
#ifndef NIBBLE_VERSION_H
#define NIBBLE_VERSION_H

#ifdef __cplusplus
extern "C" {
#endif

#define NIB_VERSION_MAJOR 0
#define NIB_VERSION_MINOR 1
#define NIB_VERSION_PATCH 0

/* Returns the loaded library's "MAJOR.MINOR.PATCH". A static string, never NULL. */
const char *nib_version(void);

#ifdef __cplusplus
}
#endif

#endif
