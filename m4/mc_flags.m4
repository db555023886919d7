# mc_flags.m4 - which flags do compiler and linker take?
#
# Each flag is tried alone, with warnings as errors: clang only warns of the
# ones that it ignores.

# MC_COMPILE_FLAG(VARIABLE, FLAGS)
# Appends FLAGS to VARIABLE if the compiler takes them.
AC_DEFUN([MC_COMPILE_FLAG], [
	AC_MSG_CHECKING([whether $CC accepts $2])
	mc_saved_CFLAGS=$CFLAGS
	CFLAGS="$CFLAGS -Werror $2"
	AC_COMPILE_IFELSE([AC_LANG_PROGRAM([[#include <string.h>]])],
		[AC_MSG_RESULT([yes])
		 AS_VAR_APPEND([$1], [" $2"])],
		[AC_MSG_RESULT([no])])
	CFLAGS=$mc_saved_CFLAGS
])

# MC_LINK_FLAG(VARIABLE, FLAGS)
# Appends FLAGS to VARIABLE if programs can be linked with them.
AC_DEFUN([MC_LINK_FLAG], [
	AC_MSG_CHECKING([whether $CC links with $2])
	mc_saved_CFLAGS=$CFLAGS
	mc_saved_LDFLAGS=$LDFLAGS
	CFLAGS="$CFLAGS -Werror"
	LDFLAGS="$LDFLAGS $2"
	AC_LINK_IFELSE([AC_LANG_PROGRAM([[#include <string.h>]])],
		[AC_MSG_RESULT([yes])
		 AS_VAR_APPEND([$1], [" $2"])],
		[AC_MSG_RESULT([no])])
	CFLAGS=$mc_saved_CFLAGS
	LDFLAGS=$mc_saved_LDFLAGS
])

# MC_LIBRARY(PREFIX, MODULE, VERSION, DEBIAN PACKAGE, FEDORA PACKAGE)
# Like PKG_CHECK_MODULES, but only takes note of what is missing, so that
# MC_LIBRARIES_DONE can name all of it at once.
AC_DEFUN([MC_LIBRARY], [
	PKG_CHECK_MODULES([$1], [$2 >= $3], [], [
		AS_VAR_APPEND([mc_missing], ["
  $2 $3 or newer"])
		AS_VAR_APPEND([mc_missing_deb], [" $4"])
		AS_VAR_APPEND([mc_missing_rpm], [" $5"])
	])
])

AC_DEFUN([MC_LIBRARIES_DONE], [
	AS_IF([test -n "$mc_missing"], [
		AC_MSG_ERROR([missing libraries (with their headers):$mc_missing
Install them:
  Debian, Ubuntu:  apt-get install$mc_missing_deb
  Fedora, RHEL:    dnf install$mc_missing_rpm])
	])
])
