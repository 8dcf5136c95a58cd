# cmake -DSOURCE=... -DOUT=... -P version.cmake: writes OUT with PM_COMMIT, the commit that is built, a + behind it where files differ
# from it; "" where the sources came without git. Run by every build, since a commit changes no file; OUT is touched when it changes.
include(${CMAKE_CURRENT_LIST_DIR}/commit.cmake)
pm_commit(${SOURCE} commit)
file(CONFIGURE OUTPUT ${OUT} CONTENT "#define PM_COMMIT \"${commit}\"\n" @ONLY)
