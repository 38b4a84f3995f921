# package.cmake - what an installation has beside the program, and the Debian package: `cpack -G DEB`.
#
# The package does not start the daemon: there is no model yet.  Its file of options is a conffile, so
# an upgrade keeps the operator's.
set(INFERD_PACKAGER "inferd packagers <packagers@localhost>" CACHE STRING "Maintainer of the package")

set(deploy ${CMAKE_SOURCE_DIR}/deploy)
set(doc share/doc/inferd)
install(FILES ${deploy}/inferd.conf DESTINATION /etc COMPONENT system)
install(FILES ${deploy}/inferd.service ${deploy}/inferd.socket DESTINATION lib/systemd/system
        COMPONENT system)
if(TARGET inferd_cuda)
  install(FILES ${deploy}/inferd.service.d/cuda.conf
          DESTINATION lib/systemd/system/inferd.service.d COMPONENT system)
endif()
install(FILES ${deploy}/debian/sysusers.conf DESTINATION lib/sysusers.d RENAME inferd.conf
        COMPONENT system)
install(FILES ${deploy}/debian/copyright ${CMAKE_SOURCE_DIR}/docs/runbook.md DESTINATION ${doc}
        COMPONENT system)
install(DIRECTORY ${deploy}/prometheus ${deploy}/grafana DESTINATION ${doc}/examples COMPONENT system
        FILES_MATCHING PATTERN "*.rules.yml" PATTERN "inferd.json" PATTERN "provisioning" EXCLUDE)

# Debian wants these two compressed, without the time in it: the same source gives the same bytes.
function(install_compressed from name to)
  set(out ${CMAKE_BINARY_DIR}/package/${name}.gz)
  add_custom_command(OUTPUT ${out} DEPENDS ${from}
                     COMMAND ${CMAKE_COMMAND} -E make_directory ${CMAKE_BINARY_DIR}/package
                     COMMAND gzip -9nc ${from} > ${out} VERBATIM)
  add_custom_target(compress_${name} ALL DEPENDS ${out})
  install(FILES ${out} DESTINATION ${to} COMPONENT system)
endfunction()
install_compressed(${deploy}/inferd.8 inferd.8 share/man/man8)
install_compressed(${CMAKE_SOURCE_DIR}/CHANGELOG.md changelog ${doc})

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME inferd)
set(CPACK_PACKAGE_CONTACT "${INFERD_PACKAGER}")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "server of language models over an OpenAI-style HTTP API")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION net)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_DESCRIPTION
"A daemon that serves models of local GGUF files or Hugging Face folders
on CPUs and NVIDIA GPUs, with continuous batching, a paged KV cache, and an
engine in a process of its own that may die without ending a stream.")
set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_DEPENDS # procps: `systemctl reload` is its kill
    "systemd | systemd-standalone-sysusers | systemd-sysusers, procps")
if(TARGET inferd_cuda) # which loads it where GPUs cannot reach each other; in NVIDIA's repository
  set(CPACK_DEBIAN_PACKAGE_SUGGESTS libnccl2)
endif()
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
file(WRITE ${CMAKE_BINARY_DIR}/package/conffiles "/etc/inferd.conf\n")
set(CPACK_DEBIAN_PACKAGE_CONTROL_EXTRA ${deploy}/debian/postinst ${deploy}/debian/prerm
    ${deploy}/debian/postrm ${CMAKE_BINARY_DIR}/package/conffiles)
include(CPack)
