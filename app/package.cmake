# What `cpack` makes of what is installed: pumice_0.1.0+321.0123456789ab_amd64.deb and the like. Read when it runs, so that the commit is
# the one of then.
include(${CMAKE_CURRENT_LIST_DIR}/commit.cmake)
pm_commit(${CMAKE_CURRENT_LIST_DIR}/.. commit)
if(commit)
  execute_process(COMMAND ${PM_GIT} rev-list --count HEAD WORKING_DIRECTORY ${CMAKE_CURRENT_LIST_DIR} OUTPUT_VARIABLE count
    OUTPUT_STRIP_TRAILING_WHITESPACE) # a later commit is a later package
  string(REPLACE "+" ".changed" commit ${commit})
  string(APPEND CPACK_PACKAGE_VERSION "+${count}.${commit}")
  set(CPACK_PACKAGE_FILE_NAME ${CPACK_PACKAGE_NAME}-${CPACK_PACKAGE_VERSION}-${CPACK_SYSTEM_NAME})
endif()
