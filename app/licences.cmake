# What goes along with programs: our own licence, and those of what is linked into them. vcpkg, and tests/setup.sh for the systems that
# we cross-build for, leave the licence of a static library in share/NAME/copyright; a shared one brings its own.
set(licences ${CMAKE_INSTALL_DOCDIR}/licences)
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

get_target_property(directories PkgConfig::CJSON INTERFACE_INCLUDE_DIRECTORIES) # those of one prefix with the others
foreach(directory ${directories})
  foreach(name cjson pcre2 utf8proc libedit mingw-w64)
    if(EXISTS ${directory}/../share/${name}/copyright)
      install(FILES ${directory}/../share/${name}/copyright DESTINATION ${licences} RENAME ${name}.txt)
    endif()
  endforeach()
endforeach()

# volk is compiled into all of them; it carries its licence at the end of its header.
file(READ ${VOLK_DIR}/volk.h text)
string(REGEX MATCH "Copyright \\(c\\) .*SOFTWARE\\." text "${text}")
string(REGEX REPLACE "\n \\* ?" "\n" text "${text}")
if(NOT text)
  message(FATAL_ERROR "${VOLK_DIR}/volk.h has no licence at its end, as it had in all versions: packages must carry it")
endif()
file(WRITE ${PROJECT_BINARY_DIR}/volk.txt "${text}\n")
install(FILES ${PROJECT_BINARY_DIR}/volk.txt DESTINATION ${licences})
